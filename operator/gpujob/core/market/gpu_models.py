"""The names of GPUs: those of the market, those that people write, and those that GPUs report."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from gpujob.api.gpujob import GpuNeeds

KNOWN = frozenset(
    {
        "A10",
        "A100 PCIE",
        "A100 SXM4",
        "A100X",
        "A40",
        "A800 PCIE",
        "B200",
        "B300",
        "GH200",
        "GTX 1050",
        "GTX 1050 Ti",
        "GTX 1060",
        "GTX 1070",
        "GTX 1070 Ti",
        "GTX 1080",
        "GTX 1080 Ti",
        "GTX 1650",
        "GTX 1660",
        "GTX 1660 S",
        "GTX 1660 Ti",
        "GTX TITAN X",
        "H100 NVL",
        "H100 PCIE",
        "H100 SXM",
        "H200",
        "H200 NVL",
        "InstinctMI50",
        "L4",
        "L40",
        "L40S",
        "Q RTX 4000",
        "Q RTX 6000",
        "Q RTX 8000",
        "Quadro K2200",
        "Quadro P4000",
        "RTX 2060",
        "RTX 2060S",
        "RTX 2070",
        "RTX 2070S",
        "RTX 2080",
        "RTX 2080 Ti",
        "RTX 2080S",
        "RTX 3050",
        "RTX 3060",
        "RTX 3060 Ti",
        "RTX 3060 laptop",
        "RTX 3070",
        "RTX 3070 Ti",
        "RTX 3070 laptop",
        "RTX 3080",
        "RTX 3080 Ti",
        "RTX 3090",
        "RTX 3090 Ti",
        "RTX 4000Ada",
        "RTX 4060",
        "RTX 4060 Ti",
        "RTX 4070",
        "RTX 4070 Ti",
        "RTX 4070S",
        "RTX 4070S Ti",
        "RTX 4080",
        "RTX 4080S",
        "RTX 4090",
        "RTX 4090D",
        "RTX 4500Ada",
        "RTX 5000Ada",
        "RTX 5060",
        "RTX 5060 Ti",
        "RTX 5070",
        "RTX 5070 Ti",
        "RTX 5080",
        "RTX 5090",
        "RTX 5880Ada",
        "RTX 6000Ada",
        "RTX A2000",
        "RTX A4000",
        "RTX A4500",
        "RTX A5000",
        "RTX A6000",
        "RTX PRO 4000",
        "RTX PRO 4500",
        "RTX PRO 5000",
        "RTX PRO 6000 S",
        "RTX PRO 6000 WS",
        "Tesla P100",
        "Tesla P4",
        "Tesla P40",
        "Tesla T4",
        "Tesla V100",
        "Titan V",
        "Titan Xp",
    }
)
"""Taken from market statistics of 2025-12-07 and offers of 2026-06-12."""

SIZES: Mapping[str, tuple[int, ...]] = {
    "A100 PCIE": (40, 80),
    "A100 SXM4": (40, 80),
    "Tesla V100": (16, 32),
}
"""Memory in GB of models that the market has in several sizes, which people mean to tell apart."""


_PARTS = re.compile(r"[a-z]+[0-9]+[a-z]*|[0-9]+|[a-z]+")
_SIZE = re.compile(r"\b([0-9]+) ?g(?:i?b)?\b")
_FORM = re.compile(r"\b(sxm|pcie|nvl)[0-9]?\b")
_MEMORY = re.compile(r"g?ddr[0-9]+x?|hbm[0-9]+e?")
_VARIANTS = frozenset(
    {"ti", "super", "laptop", "ada", "d", "x", "v", "xp", "titan", "pro", "server", "workstation"}
)
"""Words that make another model of a number."""
_SERIES = frozenset({"ada", "pro", "q", "server", "workstation"})
"""Words that people leave out, although a number may belong to several series."""
_GLUED = re.compile(r"^(rtx|gtx|q)(?=[0-9])|(?<=[0-9])(?=sxm|pcie|nvl)")
_SIZE_MAX = 300
"""`GH200 480GB` tells the memory of its CPU."""


@dataclass(frozen=True, kw_only=True)
class Meant:
    """What a name in `gpu.models` stands for."""

    models: tuple[str, ...]
    """The market's names, any of which will do; only the name as it was written if it is not
    understood, which may be that of a model that is new on the market."""
    memory_gb: int = 0
    """The least memory of each GPU that the name asks for, as `A100-80GB` does; 0 = any."""
    doubt: str = ""
    """What the name leaves open, and what there is; empty = nothing."""


def meant_by(gpu: GpuNeeds) -> tuple[Meant, ...]:
    """Returns what each name in `gpu.models` stands for, in their order.

    People write `h100`, `RTX_4090`, `NVIDIA GeForce RTX 4090` or `A100-80GB`. A name that leaves
    open what is paid for is not understood: which series, or how much memory.
    """
    return tuple(_meant(name, gpu.memory_gb) for name in gpu.models)


@lru_cache(maxsize=1024)
def _meant(name: str, memory_gb: int | None) -> Meant:
    if name in KNOWN:
        return Meant(models=(name,))
    text = name.lower().replace("-", " ").replace("_", " ").replace("quadro", "q")
    sizes = [size for found in _SIZE.findall(text) if (size := int(found)) <= _SIZE_MAX]
    bare = _SIZE.sub(" ", text)
    if alike := [model for model in KNOWN if plain(model) == plain(bare)]:
        return Meant(models=tuple(alike), memory_gb=max(sizes, default=0))
    models = _called(_GLUED.sub(r"\1 ", bare.strip()), _form(text))
    if not models:
        return Meant(models=(name,))
    there = " and ".join(f"'{model}'" for model in models)
    if len({_identity(model) for model in models}) > 1:
        return Meant(models=(name,), doubt=f"'{name}' may be any of {there}; write which")
    made = sorted({size for model in models for size in SIZES.get(model, ())})
    if made and not sizes and memory_gb is None:
        words = " or ".join(f"'{name} {size}GB'" for size in made)
        return Meant(
            models=(name,),
            doubt=f"'{name}' leaves its memory open; write {words}: there is {there}",
        )
    return Meant(models=models, memory_gb=max(sizes, default=0))


def _called(text: str, form: str | None) -> tuple[str, ...]:
    """Returns the models that a name can stand for: the same, or the same of some series."""
    asked = _series(text)
    fitting = [one for one in sorted(KNOWN) if form is None or _form(one) in (None, form)]
    same = [one for one in fitting if asked and _series(one) == asked]
    wider = [one for one in fitting if asked and asked < _series(one) <= asked | _SERIES]
    return tuple(same or wider)


def _series(name: str) -> frozenset[str]:
    quadro = "q" in name.lower().replace("quadro", "q").split()
    return _identity(name) | (frozenset({"q"}) if quadro else frozenset())


def plain(name: str) -> str:
    """Returns a name without variants of spelling: `NVIDIA GeForce RTX_4090` is `rtx4090`."""
    text = name.lower()
    for word in ("nvidia", "geforce", "-", "_", " "):
        text = text.replace(word, "")
    return text


def is_same_model(market: str, measured: str) -> bool:
    """Whether a GPU that calls itself `measured` is what the market calls `market`.

    The two are never spelled alike: `RTX 4070S Ti` is `NVIDIA GeForce RTX 4070 Ti SUPER`, `H100
    SXM` is `NVIDIA H100 80GB HBM3`. Number and variant must agree, and so must the form factor if
    both names give one. Makers, sizes and all other words say nothing: new ones appear with each
    generation, and an honest machine is not to be blamed for one.
    """
    claimed, shown = _identity(market), _identity(measured)
    forms = _form(market), _form(measured)
    return claimed == shown and (None in forms or forms[0] == forms[1])


def _identity(name: str) -> frozenset[str]:
    text = _FORM.sub(" ", _SIZE.sub(" ", name.lower().replace("-", " ")))
    parts = set(_PARTS.findall(text))
    short = {"ws": "workstation", "s": "server" if "pro" in parts else "super"}
    words = (short.get(part, part) for part in parts if not _MEMORY.fullmatch(part))
    return frozenset(word for word in words if word in _VARIANTS or _has_digit(word))


def _has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def _form(name: str) -> str | None:
    text = name.lower().replace("-", " ")
    if (found := _FORM.search(text)) is not None:
        return found[1]
    return "sxm" if "hbm3" in text else None
