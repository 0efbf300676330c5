r"""Sites told apart: the sites of a space in populations, each with fields of its own.

The sites of a network are alike, and so are their laws in :func:`.sites.decouple`.  To look for laws that differ from
site to site the sites are first split into populations, Σ_i = Σ_{i in 1} + Σ_{i in 2} + …, which is exact; each
population is then decoupled with the averages of the others as data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, map_sums
from fieldtheory.symbolic.rules import FieldAction, Step, check_distinct, names_in, tex


def split(action: FieldAction, space: Space, names: Mapping[str, str]) -> Step:
    r"""Σ_i over a space as the sum over populations of its sites, N = Σ_p N_p.

    ``names`` are the spaces of the populations, each with the ending of everything that belongs to it: the fields of
    a population keep their names with that ending, and its size is that of the space with it.

    Raises
    ------
    RuleError
        If no field lives on the space, or there are fewer than two populations.
    BadInput
        If a name is in use.
    """
    gone = tuple(f for f in action.fields if isinstance(f, Entry) and space in f.spaces)
    if not gone or len(names) < 2:
        raise RuleError(f"{len(names)} populations of the sites of {space.name}, on which {len(gone)} fields live: "
                        "at least two and one are needed")
    populations = {Space(name, sp.Symbol(f"{space.size}_{ending}", positive=True)): ending
                   for name, ending in names.items()}
    tables: dict[Space, dict[sp.Basic, sp.Basic]] = {
        part: {f: Entry(f"{f.name}_{ending}", f.domain, tuple(part if s == space else s for s in f.spaces))
               for f in gone} for part, ending in populations.items()}
    new = [f for table in tables.values() for f in table.values()]
    used = names_in(action.expr, *action.fields, *action.definitions) | {"new name"}
    for entry in (*new, *populations):
        check_distinct({"new name": entry.name}, used)  # type: ignore[attr-defined]

    def parted(expr: sp.Expr) -> sp.Expr:
        def one(total: SpaceSum) -> sp.Expr:
            if total.space != space:
                return SpaceSum(parted(total.body), total.space)
            return sp.Add(*(SpaceSum(total.body.xreplace(table), part) for part, table in tables.items()))

        return map_sums(expr, one)

    fields = tuple(g for f in action.fields for g in ([table[f] for table in tables.values()] if f in gone else [f]))
    definitions = {**action.definitions, space.size: sp.Add(*(part.size for part in populations))}
    after = replace(action, expr=parted(action.expr), fields=fields, definitions=definitions)
    return Step("split", action, after, parted, details={
        "space": space, "populations": sp.Dict({part: sp.Tuple(*table.items()) for part, table in tables.items()})},
        description=f"The ${tex(space.size)}$ sites in {len(populations)} populations, which may have laws of their "
                    "own.")


__all__ = ["split"]
