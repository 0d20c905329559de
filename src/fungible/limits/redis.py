"""Limits counted in Redis, for gateways on many machines: one Lua script an operation.

Keys share the hash tag `{fungible-limits}`, so a cluster keeps them together. Amounts are
added as 64-bit integers; they are compared as doubles, which is exact up to 2^53 parts: nine
million of the currency, beyond that to a millionth of it.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from fungible.errors import LimitStoreError, MissingExtraError
from fungible.limits.buckets import Bucket, Charge, Decision, Hold, Settlement, correction

try:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
except ImportError as _error:
    raise MissingExtraError(
        "limits in Redis need its client", hint="pip install 'fungible[redis]'"
    ) from _error

_PREFIX = "{fungible-limits}:"

# A bucket is three keys: a hash with amount and moment, its holds, and when they expire.
_COMMON = """
local function give_back(at, held)
  -- Redis takes '-0' for no integer.
  if held ~= '0' then redis.call('HINCRBY', KEYS[at], 'amount', '-' .. held) end
end
local function let_go(at, now)
  local gone = redis.call('ZRANGEBYSCORE', KEYS[at + 2], '-inf', now)
  for _, id in ipairs(gone) do
    local held = redis.call('HGET', KEYS[at + 1], id)
    if held then give_back(at, held) end
    redis.call('HDEL', KEYS[at + 1], id)
    redis.call('ZREM', KEYS[at + 2], id)
  end
end
local function level(at, drain, now)
  local row = redis.call('HMGET', KEYS[at], 'amount', 'at')
  local amount, since = tonumber(row[1] or '0'), tonumber(row[2] or now)
  if drain == 0 then return amount, row[1] or '0', since end
  local moment = math.max(now, since)
  amount = math.max(0, amount - drain * (moment - since))
  return amount, string.format('%.0f', amount), moment
end
local function keep(at, ttl_ms)
  if ttl_ms == 0 then return end
  for key = at, at + 2 do
    if redis.call('PTTL', KEYS[key]) < ttl_ms then redis.call('PEXPIRE', KEYS[key], ttl_ms) end
  end
end
"""
_RESERVE = (
    _COMMON
    + """
local id, now, expires = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local texts, moments, numbers, fits = {}, {}, {}, true
local count = #KEYS / 3
for i = 1, count do
  local at, arg = 3 * i - 2, 4 * i
  local drain = tonumber(ARGV[arg + 2])
  if drain == 0 then let_go(at, now) end
  numbers[i], texts[i], moments[i] = level(at, drain, now)
  if numbers[i] + tonumber(ARGV[arg]) > tonumber(ARGV[arg + 1]) then fits = false end
end
if not fits then return {0, unpack(texts)} end
for i = 1, count do
  local at, arg = 3 * i - 2, 4 * i
  if tonumber(ARGV[arg + 2]) == 0 then
    redis.call('HINCRBY', KEYS[at], 'amount', ARGV[arg])
    redis.call('HSET', KEYS[at + 1], id, ARGV[arg])
    redis.call('ZADD', KEYS[at + 2], expires, id)
    texts[i] = redis.call('HGET', KEYS[at], 'amount')
  else
    texts[i] = string.format('%.0f', numbers[i] + tonumber(ARGV[arg]))
    local moment = string.format('%.0f', moments[i])
    redis.call('HSET', KEYS[at], 'amount', texts[i], 'at', moment)
  end
  keep(at, tonumber(ARGV[arg + 3]))
end
return {1, unpack(texts)}
"""
)
_SETTLE = (
    _COMMON
    + """
local id, now, expires = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 1, #KEYS / 3 do
  local at, arg = 3 * i - 2, 3 * i + 1
  local drain = tonumber(ARGV[arg + 1])
  if drain == 0 then
    local held = redis.call('HGET', KEYS[at + 1], id)
    if held then
      give_back(at, held)
      redis.call('HDEL', KEYS[at + 1], id)
      redis.call('ZREM', KEYS[at + 2], id)
    end
    if held or now >= expires then redis.call('HINCRBY', KEYS[at], 'amount', ARGV[arg]) end
  else
    local amount, _, moment = level(at, drain, now)
    amount = math.max(0, amount + tonumber(ARGV[arg]))
    local texts = {string.format('%.0f', amount), string.format('%.0f', moment)}
    redis.call('HSET', KEYS[at], 'amount', texts[1], 'at', texts[2])
  end
  keep(at, tonumber(ARGV[arg + 2]))
end
return 1
"""
)
_LEVELS = (
    _COMMON
    + """
local now, texts = tonumber(ARGV[1]), {}
for i = 1, #KEYS / 3 do
  local drain = tonumber(ARGV[i + 1])
  if drain == 0 then let_go(3 * i - 2, now) end
  local _, text = level(3 * i - 2, drain, now)
  texts[i] = text
end
return texts
"""
)


class RedisStore:
    """A pool of connections and three scripts."""

    def __init__(self, dsn: str, timeout_s: float) -> None:
        at = urlsplit(dsn)
        self._where = f"redis at {at.hostname}:{at.port or 6379}"
        # A call that may have been done must not be done again: no retries.
        self._redis: Redis = Redis.from_url(
            dsn,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._reserve = self._redis.register_script(_RESERVE)
        self._settle = self._redis.register_script(_SETTLE)
        self._levels = self._redis.register_script(_LEVELS)

    async def open(self) -> None:
        """See `LimitStore`."""
        try:
            await self._redis.ping()
        except (RedisError, OSError) as error:
            raise self._failed(error) from error

    async def close(self) -> None:
        """See `LimitStore`."""
        await self._redis.aclose()

    async def reserve(self, hold: Hold, charges: Sequence[Charge]) -> Decision:
        """See `LimitStore`."""
        arguments: list[str | int] = [hold.id, hold.made_us, hold.expires_us]
        for charge in charges:
            bucket = charge.bucket
            kept = _kept_ms(bucket, hold.made_us)
            arguments += [charge.amount, bucket.capacity, bucket.drain, kept]
        answer = await self._run(self._reserve, [c.bucket for c in charges], arguments)
        return Decision(bool(answer[0]), tuple(map(int, answer[1:])))

    async def settle(self, hold: Hold, settlements: Sequence[Settlement], now_us: int) -> None:
        """See `LimitStore`."""
        arguments: list[str | int] = [hold.id, now_us, hold.expires_us]
        for item in settlements:
            bucket = item.charge.bucket
            change = correction(item, hold, now_us) if bucket.drain else item.used
            arguments += [change, bucket.drain, _kept_ms(bucket, now_us)]
        await self._run(self._settle, [item.charge.bucket for item in settlements], arguments)

    async def levels(self, buckets: Sequence[Bucket], now_us: int) -> tuple[int, ...]:
        """See `LimitStore`."""
        arguments: list[str | int] = [now_us, *(bucket.drain for bucket in buckets)]
        return tuple(map(int, await self._run(self._levels, buckets, arguments)))

    async def _run(
        self,
        script: Any,  # noqa: ANN401  # redis.commands.core.AsyncScript, which is not exported
        buckets: Sequence[Bucket],
        arguments: Sequence[str | int],
    ) -> Any:  # noqa: ANN401  # what the script returns
        keys = [f"{_PREFIX}{bucket.name}{part}" for bucket in buckets for part in ("", "/h", "/x")]
        try:
            return await script(keys=keys, args=arguments)
        except (RedisError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> LimitStoreError:
        return LimitStoreError(f"limits: {self._where}: {type(error).__name__}: {error}")


def _kept_ms(bucket: Bucket, now_us: int) -> int:
    return max(1000, (bucket.keep_until_us - now_us) // 1000) if bucket.keep_until_us else 0
