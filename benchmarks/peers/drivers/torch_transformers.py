"""PyTorch through Hugging Face `transformers`, eager, with its own dynamic cache."""

import torch
from protocol import Generate, Generated, Job, StepClock, main
from transformers import AutoModelForCausalLM


def load(job: Job) -> Generate:
    """The model in the precision of its files."""
    torch.set_num_threads(job["threads"])
    dtype = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype).eval()

    @torch.inference_mode()
    def generate(prompt: list[int], count: int) -> Generated:
        state = {}

        def step(tokens: list[int]) -> int:
            # Logits of the last position only, as `generate` of the library asks for.
            output = model(
                input_ids=torch.tensor([tokens]),
                past_key_values=state.get("cache"),
                use_cache=True,
                logits_to_keep=1,
            )
            state["cache"] = output.past_key_values
            return int(output.logits[0, -1].argmax())

        clock = StepClock(lambda: step(prompt), lambda token: step([token]))
        return clock.generate(count)

    return generate


if __name__ == "__main__":
    main(("torch", "transformers"), load)
