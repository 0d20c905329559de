"""llama.cpp through `xllamacpp`, which carries its library and its server in one wheel."""

from protocol import Generate, Generated, Job, main
from xllamacpp import CommonParams, Server


def start(job: Job, slots: int) -> Server:
    """llama.cpp's server; `context` tokens for each of the slots, other settings as shipped."""
    params = CommonParams()
    params.model.path = job["model"]
    params.n_parallel = slots
    params.n_ctx = job["context"] * slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job["threads"]
    params.n_gpu_layers = 0
    params.model_alias = {"model"}
    return Server(params)


def load(job: Job) -> Generate:
    """One slot, no HTTP in between; times are llama.cpp's own."""
    server = start(job, 1)

    def generate(prompt: list[int], count: int) -> Generated:
        answer = server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": count,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )
        if "timings" not in answer:
            raise RuntimeError(f"llama.cpp refused: {answer}")
        timings = answer["timings"]
        if timings["prompt_n"] != len(prompt) or timings["predicted_n"] != count:
            raise RuntimeError(f"llama.cpp ran other lengths than asked for: {timings}")
        # The prompt's time ends with the first token, so the rest are count - 1 tokens.
        prefill, decode = timings["prompt_ms"] / 1000, timings["predicted_ms"] / 1000
        return Generated(prefill, decode, count)

    return generate


def serve(job: Job) -> tuple[str, str]:
    """The HTTP side of the same server."""
    server = start(job, job["slots"])
    _running.append(server)
    return f"{server.listening_address}/v1", "model"


_running: list[Server] = []  # a server that is collected stops

if __name__ == "__main__":
    main(("xllamacpp",), load, serve)
