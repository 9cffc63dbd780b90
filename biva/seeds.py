"""One seed per purpose, so that adding a use of randomness changes no other."""

import hashlib


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed for a purpose, e.g. `derive_seed(run.seed, "initialisation")`.

    Stable across processes, platforms and Python versions; any difference in the parts gives an unrelated seed.
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
