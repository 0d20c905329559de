"""Writes `src/fungible/evals/packs/everyday.jsonl` from the small tables below.

Own work under the project's licence: every question is made here from common knowledge, no
third-party text. The order is fixed by a hash of a seed and the item's id, so the same
tables give the same bytes on every machine. `--check` only compares; it exits 1 when the
pack in the tree is not what the tables say.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

SEED = "everyday-1"
SYSTEM = "Answer with one word."
PACK = Path(__file__).resolve().parents[1] / "src/fungible/evals/packs/everyday.jsonl"

CAPITALS = """France Paris, Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, Egypt Cairo,
Russia Moscow, China Beijing, Greece Athens, Portugal Lisbon, Austria Vienna, Poland Warsaw,
Cuba Havana, Ireland Dublin, Norway Oslo, Sweden Stockholm, Hungary Budapest, Peru Lima,
Kenya Nairobi, Thailand Bangkok, Canada Ottawa, Australia Canberra, Vietnam Hanoi, Iraq Baghdad"""

OPPOSITES = """hot cold, big small, up down, fast slow, happy sad, day night, left right, old new,
open closed, hard soft, rich poor, strong weak, full empty, long short, high low, wet dry,
early late, near far, clean dirty, thick thin, push pull, buy sell, win lose, inside outside"""

PLURALS = """dog dogs, book books, bus buses, box boxes, city cities, baby babies, child children,
mouse mice, foot feet, tooth teeth, man men, woman women, leaf leaves, knife knives, fox foxes,
story stories, goose geese, wolf wolves, dish dishes, country countries, toy toys, tomato tomatoes,
half halves, ox oxen"""

PAST = """walk walked, play played, go went, eat ate, run ran, write wrote, take took, give gave,
buy bought, sing sang, swim swam, make made, come came, think thought, bring brought,
teach taught, drive drove, speak spoke, fly flew, know knew, find found, jump jumped, help helped,
catch caught"""

COLOURS = """are bananas yellow, is grass green, is snow white, is coal black, is blood red,
are lemons yellow, is milk white, are strawberries red, is spinach green, is chocolate brown,
is the_sky blue, are carrots orange, are tomatoes red, are frogs green, are clouds white,
is broccoli green, is the_sun yellow, is the_ocean blue, are pumpkins orange, are cucumbers green,
is corn yellow, are crows black, are cherries red, is salt white"""

CONTINENTS = """France Europe, Germany Europe, Japan Asia, China Asia, Egypt Africa, Kenya Africa,
Spain Europe, India Asia, Nigeria Africa, Italy Europe, Thailand Asia, Poland Europe, Ghana Africa,
Vietnam Asia, Morocco Africa, Norway Europe, Ethiopia Africa, Iran Asia, Greece Europe, Iraq Asia,
Portugal Europe, Nepal Asia, Uganda Africa, Angola Africa"""

FACTS = """Is ice cold? yes; Is fire cold? no; Can birds fly? yes; Can stones fly? no;
Is the sun hot? yes; Is snow hot? no; Do fish live in water? yes; Do cats live in the sea? no;
Is a lemon sour? yes; Is sugar sour? no; Is an elephant big? yes; Is an ant bigger than a cow? no;
Is Paris in France? yes; Is Tokyo in Africa? no; Does a car have wheels? yes;
Does a snake have legs? no; Is a dog an animal? yes; Is a chair an animal? no;
Do trees have leaves? yes; Do people have three eyes? no; Is gold a metal? yes; Is wood a metal? no;
Does a week have seven days? yes; Does a year have ten months? no"""

REVIEWS = """I loved every minute of it. positive; The food was cold and awful. negative;
What a wonderful day! positive; I want my money back. negative;
Great service and friendly staff. positive; The worst movie I have ever seen. negative;
This phone is fantastic. positive; It broke after one day. negative;
A beautiful and clean hotel. positive; The room was dirty and loud. negative;
My kids enjoy this toy a lot. positive; A boring and stupid book. negative;
Best pizza in town. positive; I hate this chair. negative;
The trip was perfect. positive; The waiter was very rude. negative;
I am so happy with it. positive; A terrible waste of time. negative;
Excellent quality, I recommend it. positive; The coffee tasted horrible. negative;
An amazing concert. positive; I was very disappointed. negative;
The garden is lovely. positive; The bus was late again. negative"""

WORDS = """banana river window garden yellow pencil thunder basket silver planet orange bridge
candle forest marble rocket guitar pillow dragon castle button winter summer ladder"""

SUMS = """1+1 1+2 2+2 2+3 3+3 4+1 4+4 5+5 5+2 6+1 6+3 7+2 7+7 8+1 8+8 9+1 9+9 5+4 4+2 10+1 10+5
10+10 3+4 6+6"""

Message = dict[str, str]
Question = tuple[str, dict[str, Any]]


def pairs(table: str) -> list[tuple[str, str]]:
    """`a b, c d` -> [(a, b), (c, d)]; the last word of an entry is the answer."""
    rows = [entry.strip().rsplit(" ", 1) for entry in table.replace("\n", " ").split(",")]
    return [(row[0].replace("_", " "), row[1]) for row in rows]


def facts(table: str) -> list[tuple[str, str]]:
    """`a sentence answer; …` -> [(sentence, answer)]."""
    rows = [entry.strip().rsplit(" ", 1) for entry in table.replace("\n", " ").split(";")]
    return [(row[0], row[1]) for row in rows]


def asks(template: str, table: str) -> list[Question]:
    """One question per row; the answer must occur as a word."""
    return [
        (template.format(subject), {"kind": "contains", "answers": [answer]})
        for subject, answer in pairs(table)
    ]


def chooses(template: str, table: str, choices: list[str]) -> list[Question]:
    """One question per row; the first choice named must be the answer."""
    return [
        (template.format(subject), {"kind": "one_of", "choices": choices, "answer": answer})
        for subject, answer in facts(table)
    ]


def formats() -> list[Question]:
    """Half the words are to be repeated as they are, half in capital letters."""
    words = WORDS.split()
    repeat = [(f"Repeat: {word}", {"kind": "exact", "answer": word}) for word in words[:12]]
    capitals = [
        (f"Capitals: {word}", {"kind": "regex", "pattern": rf"^\W*{word.upper()}\W*$"})
        for word in words[12:]
    ]
    return [*repeat, *capitals]


def sums() -> list[Question]:
    """Sums of small numbers; the last number of the answer counts."""
    rows = [tuple(map(int, term.split("+"))) for term in SUMS.split()]
    return [(f"What is {a} + {b}?", {"kind": "number", "value": a + b}) for a, b in rows]


# cluster -> (a worked example or nothing, questions). The example fixes the form of the
# answer; without one the model answers in a sentence.
CLUSTERS: dict[str, tuple[tuple[str, ...], list[Question]]] = {
    "capitals": ((), asks("What is the capital of {}?", CAPITALS)),
    "opposites": ((), asks("What is the opposite of {}?", OPPOSITES)),
    "plurals": (
        ("What is the plural of cup?", "cups"),
        asks("What is the plural of {}?", PLURALS),
    ),
    "past_tense": (
        ("What is the past tense of see?", "saw"),
        asks("What is the past tense of {}?", PAST),
    ),
    "colours": (("What color is a plum?", "purple"), asks("What color {}?", COLOURS)),
    "continents": (
        ("On which continent is Russia?", "Asia"),
        asks("On which continent is {}?", CONTINENTS),
    ),
    "facts": ((), chooses("{} Yes or no?", FACTS, ["yes", "no"])),
    "reviews": (
        ("Review: Very bad food.", "negative"),
        chooses("Review: {}", REVIEWS, ["positive", "negative"]),
    ),
    "formats": (("Repeat: apple", "apple"), formats()),
    "sums": ((), sums()),
}


def messages(example: tuple[str, ...], question: str) -> list[Message]:
    """System prompt, the example's turns, the question."""
    turns = [{"role": "system", "content": SYSTEM}]
    for role, content in zip(("user", "assistant"), example, strict=False):
        turns.append({"role": role, "content": content})
    return [*turns, {"role": "user", "content": question}]


def items() -> list[dict[str, Any]]:
    """Every item, in the order of the pack."""
    rows = [
        {
            "id": f"{cluster}-{number:02}",
            "cluster": cluster,
            "messages": messages(example, question),
            "max_tokens": 10,
            "scorer": scorer,
        }
        for cluster, (example, questions) in CLUSTERS.items()
        for number, (question, scorer) in enumerate(questions, start=1)
    ]
    return sorted(rows, key=lambda row: hashlib.sha256(f"{SEED}/{row['id']}".encode()).digest())


def render() -> bytes:
    """The pack: a header line, then one item per line."""
    rows = items()
    header = {
        "suite": "everyday",
        "version": 1,
        "licence": "Apache-2.0",
        "description": "Short everyday questions with checkable answers, own work.",
        "items": len(rows),
    }
    lines = [json.dumps(row, ensure_ascii=False) for row in [header, *rows]]
    return ("\n".join(lines) + "\n").encode()


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description="Write the bundled suite `everyday`.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if parser.parse_args().check:
        same = PACK.is_file() and PACK.read_bytes() == render()
        print(f"{PACK.name}: {'as generated' if same else 'differs from its tables'}")
        return 0 if same else 1
    PACK.write_bytes(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
