"""What the quickstart writes before anything starts: a configuration and a price sheet."""

import hashlib
from pathlib import Path

import msgspec

MODEL = "assistant"
UPSTREAM_MODEL = "smollm2-135m-instruct"
REFERENCE = "xla-f32"
NAIVE = "ort-int4-naive"
DEMO_PRICE_PER_HOUR = "0.0900"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One backend of the quickstart: a variant of the artifact on a target."""

    name: str
    target: str
    variant: str


ENTRIES = (
    Entry(name=REFERENCE, target="xla:cpu", variant="f32"),
    Entry(name="ort-int8", target="onnxruntime:cpu", variant="int8"),
    Entry(name="ort-int4", target="onnxruntime:cpu", variant="int4"),
    Entry(name=NAIVE, target="onnxruntime:cpu", variant="int4-naive"),
)


class DemoKey(msgspec.Struct, frozen=True, kw_only=True):
    """Who an API key of the demonstration stands for."""

    name: str
    customer: str
    feature: str = ""


# Public on purpose: the gateway of the quickstart listens on loopback only.
DEMO_KEYS = {
    "fungible-demo": DemoKey(name="demo", customer="acme"),
    "fungible-demo-acme-chat": DemoKey(name="acme-chat", customer="acme", feature="chat"),
    "fungible-demo-acme-search": DemoKey(name="acme-search", customer="acme", feature="search"),
    "fungible-demo-globex-chat": DemoKey(name="globex-chat", customer="globex", feature="chat"),
}

_HEADER = """\
# Written by `fungible quickstart`, again at each run. Copy it to ./fungible.toml to make it yours.
# Keys are the demonstration's own and public; the gateway listens on loopback only.
home = "."

[gateway]
port = {gateway_port}

[control]
port = {control_port}

[ledger]
prices = "prices.csv"

[route.{model}]
reference = "{reference}"
backends = [{names}]
fallback = ["{reference}"]
"""

_BACKEND = """
[backend.{name}]
model = "{upstream}"
accelerator = "cpu-x86"
price = "cpu-2-cores"
engine = {{ artifact = "{artifact}", target = "{target}", variant = "{variant}", \
slots = 8, context = 512, threads = {threads} }}
"""

_KEY = """
[key.{name}]
hash = "{hash}"
owner = "platform"
customer = "{customer}"
feature = "{feature}"
"""

_PRICES = f"""\
key,unit,leaf,price,currency,valid_from,valid_to,source,note
cpu-2-cores,hour,,{DEMO_PRICE_PER_HOUR},USD,2026-01-01,,example,\
simulated: an example price of a two-core machine; put your own contract's here
"""


def write_setup(
    home: Path, artifact: Path, *, gateway_port: int, control_port: int, threads: int
) -> Path:
    """Write `fungible.toml` and, if there is none yet, `prices.csv`; the path of the first."""
    home.mkdir(parents=True, exist_ok=True)
    parts = [
        _HEADER.format(
            gateway_port=gateway_port,
            control_port=control_port,
            model=MODEL,
            reference=REFERENCE,
            names=", ".join(f'"{entry.name}"' for entry in ENTRIES),
        )
    ]
    parts += [
        _BACKEND.format(
            name=entry.name,
            upstream=UPSTREAM_MODEL,
            artifact=artifact.resolve(),
            target=entry.target,
            variant=entry.variant,
            threads=threads,
        )
        for entry in ENTRIES
    ]
    parts += [
        _KEY.format(
            name=key.name,
            hash=hashlib.sha256(secret.encode()).hexdigest(),
            customer=key.customer,
            feature=key.feature,
        )
        for secret, key in DEMO_KEYS.items()
    ]
    path = home / "fungible.toml"
    path.write_text("".join(parts), encoding="utf-8")
    prices = home / "prices.csv"
    if not prices.exists():
        prices.write_text(_PRICES, encoding="utf-8")
    return path
