"""Seeds: known values, and independence of purposes."""

import hashlib

from biva.seeds import derive_seed


def test_seed_is_half_a_sha256_of_the_typed_parts() -> None:
    digest = hashlib.sha256(b"int:1\0str:data").digest()
    assert derive_seed(1, "data") == int.from_bytes(digest[:8], "big") // 2


def test_seeds_of_different_purposes_differ() -> None:
    parts: list[tuple[str | int, ...]] = [
        (1, "data"),
        (2, "data"),
        (1, "training"),
        ("1", "data"),
        (1, "dat", "a"),
        (1,),
    ]
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
