"""ONNX Runtime GenAI on a model that its own builder made from the Hugging Face directory."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime_genai as og
from protocol import Generate, Generated, Job, StepClock, main


def build(job: Job) -> Path:
    """The builder's model in the job's precision beside the checkpoint; made once."""
    source = Path(job["model"])
    final = source.parent / f"ort-genai-{job['precision']}"
    if not final.exists():
        partial = final.with_name(f".{final.name}.part")
        cache = final.with_name(f".{final.name}.cache")
        shutil.rmtree(partial, ignore_errors=True)
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", str(source), "-o", str(partial), "-c", str(cache)]
        command += ["-p", job["precision"], "-e", "cpu"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        shutil.rmtree(cache, ignore_errors=True)
        partial.rename(final)
    return final


def set_threads(model: Path, threads: int) -> None:
    """The library reads the number of threads from the model's configuration."""
    path = model / "genai_config.json"
    config = json.loads(path.read_text())
    options = config["model"]["decoder"]["session_options"]
    if options.get("intra_op_num_threads") != threads:
        options["intra_op_num_threads"] = threads
        path.write_text(json.dumps(config, indent=4))


def load(job: Job) -> Generate:
    """A generator per request, as the library's own loop does it."""
    path = build(job)
    set_threads(path, job["threads"])
    model = og.Model(str(path))

    def generate(prompt: list[int], count: int) -> Generated:
        params = og.GeneratorParams(model)
        length = len(prompt) + count
        params.set_search_options(do_sample=False, max_length=length, min_length=length)
        generator = og.Generator(model, params)

        def first() -> int:
            generator.append_tokens(prompt)
            return more(0)

        def more(_: int) -> int:
            generator.generate_next_token()
            return int(generator.get_next_tokens()[0])

        return StepClock(first, more).generate(count)

    return generate


if __name__ == "__main__":
    main(("onnxruntime-genai", "onnxruntime"), load)
