"""Cohorts: how a gateway keeps a key with its arm.

Weights of an HTTPRoute are drawn anew for each request. Where a key must stay, its sender names the key's cohort in a
request header, and the route sends as many of the hundred cohorts to the candidate as the weight says. A raised weight
only ever adds cohorts, and at 0 none is left; the session persistence of GEP-1619 would hold on to them.
"""

import hashlib
from typing import Final

COHORTS: Final = 100
"""Cohorts that keys are spread over: a share is honoured to a per cent."""


def place_of(text: str, places: int) -> int:
    """Return where a text falls when texts are spread evenly over so many places, in [0, places).

    It is the first four bytes of SHA-1 over the text in UTF-8, read big-endian, modulo `places`. The hash spreads
    texts; nothing secret rests on it.
    """
    digest = hashlib.sha1(text.encode(errors="surrogatepass"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "big") % places


def cohort_of(key: str) -> int:
    """Return the cohort of a key, a tenant's or a run's say, in [0, 100): what its sender puts into the header.

    It is the key's place among a hundred (`place_of`), easily had in any language.
    """
    return place_of(key, COHORTS)


def candidate_cohorts(weight: int, salt: str) -> frozenset[int]:
    """Return the cohorts that the candidate serves at a weight in per cent.

    The salt says where they begin, so that not the same keys meet every candidate first.

    Raises:
        ValueError: the weight is not within 0 and 100.
    """
    if not 0 <= weight <= COHORTS:
        raise ValueError(f"weight must be within 0 and {COHORTS}, not {weight}")
    first = cohort_of(salt)
    return frozenset((first + place) % COHORTS for place in range(weight))
