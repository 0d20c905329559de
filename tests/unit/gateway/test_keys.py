"""Who a request is from, and on whose account it goes."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from fungible.config import Config, KeySettings
from fungible.config.check import check_config
from fungible.errors import AuthError, ConfigError
from fungible.gateway.auth import KeyRing, attribute


def key(secret: str, **fields: str) -> KeySettings:
    return KeySettings(hash=hashlib.sha256(secret.encode()).hexdigest(), **fields)


RING = KeyRing(Config(key={"one": key("fk-one"), "zwei": key("fk-zwei-ü", customer="acme")}))


@pytest.mark.parametrize(
    ("authorization", "api_key", "name"),
    [
        ("Bearer fk-one", None, "one"),
        ("bearer  fk-one ", None, "one"),
        (None, "fk-zwei-ü", "zwei"),
        ("Bearer fk-one", "fk-one", "one"),
        ("Basic xyz", "fk-one", "one"),
    ],
)
def test_both_apis_headers_are_read(
    authorization: str | None, api_key: str | None, name: str
) -> None:
    assert RING.authenticate(authorization, api_key)[0] == name


@pytest.mark.parametrize(
    ("authorization", "api_key", "words"),
    [
        (None, None, "no API key"),
        ("Basic fk-one", None, "no API key"),
        ("Bearer ", " ", "no API key"),
        ("Bearer fk-one", "fk-zwei-ü", "two different"),
        ("Bearer fk-on", None, "not known"),
        ("Bearer fk-onex", None, "not known"),
        (None, "\udcff", "not known"),
    ],
)
def test_anything_else_is_refused(
    authorization: str | None, api_key: str | None, words: str
) -> None:
    with pytest.raises(AuthError, match=words) as caught:
        RING.authenticate(authorization, api_key)
    assert "fk-" not in str(caught.value)


def test_the_time_of_a_lookup_does_not_grow_with_the_keys() -> None:
    many = KeyRing(Config(key={f"k{at}": key(f"fk-{at}") for at in range(20_000)}))
    compared: list[bytes] = []

    class Watched(bytes):
        def __eq__(self, other: object) -> bool:
            compared.append(self)
            return bytes.__eq__(self, other)  # type: ignore[arg-type]

        __hash__ = bytes.__hash__

    many._entries = {Watched(digest): entry for digest, entry in many._entries.items()}
    assert many.authenticate("Bearer fk-19999")[0] == "k19999"
    assert len(compared) <= 3


@pytest.mark.parametrize(
    ("expires", "gone"),
    [
        ("2001-01-01", True),
        ("2001-01-01T00:00:00+14:00", True),
        ("9999-12-31", False),
        ("9998-12-31T23:59:59-11:00", False),
    ],
)
def test_expiry_takes_a_time_and_a_zone(expires: str, gone: bool) -> None:
    ring = KeyRing(Config(key={"k": key("fk-k", expires=expires)}))
    if gone:
        with pytest.raises(AuthError, match=f"expired on {expires[:10]}"):
            ring.authenticate("Bearer fk-k")
    else:
        ring.authenticate("Bearer fk-k")


def test_a_zone_moves_the_moment() -> None:
    soon = datetime.now(UTC) + timedelta(minutes=10)
    east = soon.replace(tzinfo=None).isoformat() + "+01:00"
    west = soon.replace(tzinfo=None).isoformat() + "-01:00"
    KeyRing(Config(key={"k": key("fk-k", expires=west)})).authenticate("Bearer fk-k")
    with pytest.raises(AuthError, match="expired"):
        KeyRing(Config(key={"k": key("fk-k", expires=east)})).authenticate("Bearer fk-k")


def test_one_secret_is_one_key() -> None:
    with pytest.raises(ConfigError, match=r"key\.b\.hash is the one of key\.a"):
        check_config(Config(key={"a": key("same"), "b": key("same")}), "fungible.toml")
    with pytest.raises(ConfigError, match=r"key\.a\.expires: 'soon'"):
        check_config(Config(key={"a": key("same", expires="soon")}), "fungible.toml")


HEADERS = {
    "x-fungible-feature": "search",
    "x-fungible-customer": "mallory",
    "x-fungible-session": "s1",
    "x-fungible-tags": "team=blue, , =x, test",
}


def test_a_request_cannot_claim_what_the_key_says() -> None:
    sure = KeySettings(hash="", owner="o", customer="acme", feature="chat")
    body = {"metadata": {"customer": "eve", "feature": "x", "owner": "eve", "key": "eve"}}
    who = attribute("k", sure, body, HEADERS)
    assert (who.key, who.owner, who.customer, who.feature) == ("k", "o", "acme", "chat")
    assert who.session == "s1"
    assert who.tags == {"team": "blue", "test": "", "owner": "eve", "key": "eve"}


def test_where_the_key_is_silent_the_request_speaks() -> None:
    body = {"metadata": {"customer": "eve", "session": "m"}, "user": "u"}
    who = attribute("k", KeySettings(hash=""), body, HEADERS)
    assert (who.customer, who.feature, who.session) == ("mallory", "search", "s1")
    who = attribute("k", KeySettings(hash=""), body)
    assert (who.customer, who.feature, who.session) == ("eve", "", "m")
    assert who.tags == {}
