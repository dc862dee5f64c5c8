"""Other JSON than what is there: bytes changed at random are hardly ever JSON."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

_HERE = "\1"  # takes the place of what is put in, which may be no JSON
_ODD = (
    *("null", "true", "[]", "{}", "0", "-1", "0.5", "NaN", "1e999", "2147483648", "9223372036854775808", "x"),
    *('""', '"a\\nb"', '"\\ud800"', '"\\u0000"', '[[1, "a"], {}]'),
    *("1" + "0" * 400, "1" * 5000, "[" * 2000 + "]" * 2000),
)


def of_json(data: bytes, number: int) -> bytes:
    """JSON, or one line of several, with one value or name changed or left out; what is no JSON stays."""
    rng = random.Random(number)
    lines = data.split(b"\n")
    for place in (slice(None), slice(choice := rng.randrange(len(lines)), choice + 1)):
        try:
            lines[place] = [_changed(json.loads(b"\n".join(lines[place])), rng)]
            break
        except (ValueError, RecursionError):
            continue
    return b"\n".join(lines)


def _changed(content: Any, rng: random.Random) -> bytes:
    places = [*_places(content)]
    if places:
        holder, key = rng.choice(places)
        way = rng.randrange(4)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[_HERE] = holder.pop(key)
        elif way == 2:
            other, its_key = rng.choice(places)
            holder[key] = copy.deepcopy(other[its_key])
        else:
            holder[key] = _HERE
    return json.dumps(content).replace(json.dumps(_HERE), rng.choice(_ODD)).encode(errors="surrogatepass")


def _places(content: Any) -> Any:
    """Yields every container with each of its keys."""
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from _places(content[key])
