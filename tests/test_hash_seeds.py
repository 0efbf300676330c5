"""What must not depend on the order of a set is printed byte for byte the same under every hash seed.

The programs share one process for each seed, since starting one takes longer than most of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import pytest

from tests.hash_seeds import printed_under
from tests.test_compile import action_kernel

PROGRAMS = {
    "saddle points": """
import sympy as sp
from fieldtheory.symbolic.saddles import saddle_points
x, y = sp.symbols("x y", real=True)
m, g, c = sp.symbols("m g c", positive=True)
S = -m * (x**2 + y**2) / 2 + g * (x**4 + y**4) / 4 + c * x**2 * y**2 / 2
print([tuple(map(sp.srepr, (p.values[x], p.action, p.hessian))) for p in saddle_points(S, [x, y])])
T = (x - 1)**4 / 4 + (y - 2)**2 * (x**2 + 1) + y**4 / 4 - 3 * x * y
print([(sp.srepr(p.values[x]), str(p)) for p in saddle_points(T, [x, y], complex=True)])
""",
    "series": """
import sympy as sp
from fieldtheory.symbolic.series import Series
N, *c = sp.symbols("N a b c d e")
x = Series(tuple(c), 1 / N)
print((x * x).exp(), sp.srepr((x**-2).as_expr()), sp.latex(x.log()))
""",
    "loop expansions": """
import sympy as sp
from fieldtheory.symbolic.expansion import cumulant, effective_action, log_partition
x, y = sp.symbols("x y", real=True)
a, b, c, N = sp.symbols("a b c N", positive=True)
S = N * (x**2 / 2 + c * x * y + y**2 + a * x**3 / 6 + b * x * y**2 + (x**2 + y**2)**2)
print(sp.srepr(log_partition(S, [x, y], (0, 0), 3, N).as_expr()))
print(sp.srepr(effective_action(S, [x, y], 2, N).as_expr()))
T = S.subs({a: 1, b: sp.Rational(1, 3), c: sp.Rational(1, 5)})
print(sp.srepr(cumulant(T - N * x / 7, [x, y], None, (x, y), 1, N).as_expr()))
""",
    "diagrams": """
import sympy as sp
from fieldtheory.symbolic.diagrams import diagrams
x, y, a, b, c = sp.symbols("x y a b c")
rules = {(x, x, y): a, (y, y, y): b * (1 + a), (x, x, y, y): c}
found = diagrams(rules, sp.Matrix([[1 / a, c], [c, 2]]), [x, y], 2, legs=(x, y))
for d in (*found, *diagrams(rules, sp.eye(2), [x, y], 3)):
    print(d.topology, sp.srepr(d.weight), d.to_tikz(), d.to_svg(), d._repr_html_())
""",
    "power counting": """
from tests.symbolic.test_counting import GIVEN, STATE, Q, balance, counted
c = counted()
print(c, c._repr_latex_(), c.assumptions, balance(STATE, [Q], GIVEN))
""",
    "LaTeX": """
import sympy as sp
from tests.symbolic.test_printing import ACTION, SADDLE, Q, SpaceSum, T, X, a, f, inputs, latex, multiline, site, u, w
for expr in (ACTION, SADDLE, sp.diff(ACTION, u, 4), T * Q, SpaceSum(a * SpaceSum(X * w, inputs), site) + f):
    print(sp.srepr(expr))
    for style in ("modes", "traces"):
        print(latex(expr, style=style), multiline(expr, 30, style=style))
""",
    "generated code": """
import hashlib
import tests.test_compile as t
from fieldtheory.symbolic.lowering import lower
code = lower(t.action_outputs(), [t.u, t.N, t.g, t.s], [t.LAM, t.Y, t.T], "q_action")
print(hashlib.sha256(code[1].encode()).hexdigest())
""",
    "rules": """
import sympy as sp
from tests import linear_network as linear
for build in (linear.conjugate_view, linear.rescaling_view, linear.site_view, linear.rank_two):
    derivation = build()
    for step in derivation.steps:
        print(sp.srepr(step.after.expr), sp.srepr(sp.Tuple(*step.after.fields)))
    if build is not linear.site_view:
        print([(name, sp.srepr(found)) for name, found in derivation.carried().items()])
    print(derivation._repr_latex_())
""",
    "theories": """
from sympy import srepr
import fieldtheory as ft
from fieldtheory.symbolic.printing import latex
for options in ({"view": "adaptation", "loops": 1}, {"view": "rescaling", "loops": 1}):
    theory = ft.theories["linear"](ft.Network(scaling=ft.Scaling()), **options)
    for table in (theory.equations, theory.observables):
        for name, expr in table.items():
            print(name, srepr(expr), latex(expr))
    for step in theory.action.steps:
        print(step.rule, srepr(step.after.expr), latex(step.after.expr))
    print(theory.kernel.source, theory.power_counting(), theory.power_counting().assumptions)
""",
}
LONG = ("rules", "theories")
"""What takes seconds: under two seeds, or in the slow test only."""
RUN = """
import contextlib, io, json, sys
printed = {{}}
for name, program in {programs!r}.items():
    with contextlib.redirect_stdout(io.StringIO()) as text:
        exec(program, {{}})
    printed[name] = text.getvalue()
json.dump(printed, sys.stdout)
"""


def parts(programs: Iterable[str], seeds: Iterable[int]) -> dict[str, set[str]]:
    """What each of these programs prints under these seeds."""
    printed: dict[str, set[str]] = {name: set() for name in programs}
    for whole in printed_under(RUN.format(programs={name: PROGRAMS[name] for name in programs}), seeds):
        for name, text in json.loads(whole).items():
            printed[name].add(text)
    return printed


def agree(printed: dict[str, set[str]]) -> None:
    assert all(text.strip() for texts in printed.values() for text in texts)
    assert [name for name, texts in printed.items() if len(texts) > 1] == []


def test_nothing_printed_depends_on_the_hash_seed() -> None:
    printed = parts([name for name in PROGRAMS if name not in LONG], (0, 1, 2))
    agree(printed)
    assert printed["generated code"] == {hashlib.sha256(action_kernel().source.encode()).hexdigest() + "\n"}


def test_formulas_of_a_theory_do_not_depend_on_the_hash_seed() -> None:
    agree(parts(["theories"], (0, 1)))


@pytest.mark.slow
def test_nothing_printed_depends_on_ten_hash_seeds() -> None:
    agree(parts(PROGRAMS, range(10)))


def test_what_depends_on_the_order_of_a_set_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROGRAMS, "series", "print({'one', 'two', 'three', 'four', 'five'})")
    with pytest.raises(AssertionError, match="series"):
        agree(parts(["series"], (0, 1, 2)))
