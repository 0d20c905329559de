"""OpenVINO GenAI, which reads the GGUF file itself."""

import numpy as np
import openvino as ov
import openvino_genai as genai
from protocol import Generate, Generated, Job, main


def load(job: Job) -> Generate:
    """Its pipeline without a prefix cache; times are the library's own."""
    properties = {"INFERENCE_NUM_THREADS": job["threads"]}
    if job["precision"] == "f32":
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    pipeline = genai.LLMPipeline(job["model"], "CPU", **properties)

    def generate(prompt: list[int], count: int) -> Generated:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count
        config.ignore_eos = True
        config.do_sample = False
        ids = ov.Tensor(np.array([prompt], np.int64))
        mask = ov.Tensor(np.ones((1, len(prompt)), np.int64))
        result = pipeline.generate(genai.TokenizedInputs(ids, mask), config)
        tokens = list(result.tokens[0])
        if len(tokens) != count:
            raise RuntimeError(f"OpenVINO GenAI made {len(tokens)} tokens, not {count}")
        metrics = result.perf_metrics
        first = metrics.get_ttft().mean / 1000
        rest = metrics.get_generate_duration().mean / 1000 - first
        return Generated(first, rest, count, [int(token) for token in tokens])

    return generate


if __name__ == "__main__":
    main(("openvino-genai", "openvino"), load)
