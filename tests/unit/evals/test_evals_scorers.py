import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.evals.scorers import Contains, Exact, Number, OneOf, Regex, Scorer

YES_NO = OneOf(choices=["yes", "no"], answer="yes")


@pytest.mark.parametrize(
    ("scorer", "text", "right"),
    [
        (Exact(answer="banana"), 'Banana."', True),
        (Exact(answer="banana"), "banana banana", False),
        (Exact(answer="two words"), " two  words\n", True),
        (Contains(answers=["Paris"]), "The capital of France is paris.", True),
        (Contains(answers=["Paris"]), "Parisian", False),
        (Contains(answers=["Farsi", "Persian"]), "persian", True),
        (Contains(answers=["South America"]), "in South America, specifically", True),
        (Contains(answers=["cat"]), "concatenate", False),
        (YES_NO, "Yes. Not no.", True),
        (YES_NO, "No. Yes is wrong.", False),
        (YES_NO, "Nobody knows.", False),
        (YES_NO, "", False),
        (OneOf(choices=["more", "more or less"], answer="more or less"), "More or less", True),
        (Number(value=7), "3 + 4 = 7", True),
        (Number(value=7), "The answer is 7.", True),
        (Number(value=7), "7 is 3 + 4", False),
        (Number(value=-2), "3 - 5 = −2", True),
        (Number(value=1000), "1,000", True),
        (Number(value=3.14, tolerance=0.01), "about 3.141", True),
        (Number(value=3), "three", False),
        (Regex(pattern=r"^\W*LEMON\W*$"), '"LEMON".', True),
        (Regex(pattern=r"^\W*LEMON\W*$"), "lemon", False),
    ],
)
def test_scores(scorer: Scorer, text: str, right: bool) -> None:
    assert scorer.score(text) == float(right)


@given(value=st.integers(-(10**6), 10**6), noise=st.integers(0, 99))
def test_the_last_number_counts(value: int, noise: int) -> None:
    assert Number(value=value).score(f"{noise} and so {value}.") == 1.0


@given(text=st.text(max_size=60))
def test_any_text_gets_a_score(text: str) -> None:
    scorers: list[Scorer] = [Exact(answer="a"), Contains(answers=["a"]), YES_NO, Number(value=1)]
    assert {scorer.score(text) for scorer in scorers} <= {0.0, 1.0}
