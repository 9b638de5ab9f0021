"""Mutants change one thing, and those that may survive are marked where they are."""

from textwrap import dedent

import mutants

TEXT = dedent(
    """
    def f(x, w):
        if x.shape[0] == 2:  # 2 mutants: both are even
            return (
                x @ w  # mutant: it commutes
            )
        return w.shape[-1] + x.T[3]
    """
).lstrip()


def found(text=TEXT):
    return {job.change.replace("\n", ""): job for job in mutants.mutants("f", text)}


def test_each_mutant_is_one_change_of_one_line():
    jobs = found()
    assert "x @ w -> w @ x" in " ".join(jobs)
    for job in jobs.values():
        original = mutants.ast.unparse(mutants.ast.parse(TEXT)).splitlines()
        changed = [a != b for a, b in zip(original, job.source.splitlines(), strict=True)]
        assert sum(changed) == 1


def test_indices_of_shapes_are_not_changed():
    jobs = found()
    assert any("x.T[4]" in change for change in jobs)
    assert not any("shape[1]" in job.source or "shape[1" in job.source for job in jobs.values())
    assert all("x.shape[0]" in job.source and "w.shape[-1]" in job.source for job in jobs.values())


def test_marks_belong_to_statements():
    assert mutants.marks("f", TEXT) == {("f", 2): 2, ("f", 3): 1}


def survivors(*lines):
    return [mutants.Job("f", line, line, 0, "a change", "") for line in lines]


def test_marks_and_survivors_agree():
    marked = mutants.marks("f", TEXT)
    assert not list(mutants.contradictions(survivors(2, 2, 3), marked, whole=True))
    for lines, told in {
        (2, 2, 3, 6): "f.py:6: 1 of its mutants survive, 0 are marked",
        (2, 2): "f.py:3: 0 of its mutants survive, 1 are marked",
        (2, 3): "f.py:2: 1 of its mutants survive, 2 are marked",
        (2, 2, 3, 3): "f.py:3: 2 of its mutants survive, 1 are marked",
    }.items():
        assert list(mutants.contradictions(survivors(*lines), marked, whole=True)) == [told]
    assert not list(mutants.contradictions(survivors(2), marked, whole=False))
    assert list(mutants.contradictions(survivors(3, 3), marked, whole=False))
