"""Exercises: an answer is checked before it is shown."""

import pytest

from nvfp4viz.explorer import check_answer


@pytest.mark.parametrize(
    "answer, truth, said",
    [
        (None, 0.25, "No answer yet"),
        (0.2, 0.25, "Not yet: too small."),
        (0.3, 0.25, "Not yet: too large."),
        (0.2501, 0.25, "Right: 0.25"),
        ("0.25", 0.25, "Not yet: it is a number."),
        (0, 0.0, "Right: 0"),
        (" LM_head", "lm_head", "Right: lm_head"),
        ("other", "lm_head", "Not yet: it is another."),
        ((0.5, 0.9), (0.5, 0.6), "Not yet: part 2: too large."),
        ([0.5, 0.6], (0.5, 0.6), "Right: 0.5, 0.6"),
        (0.5, (0.5, 0.6), "Not yet: it has 2 parts."),
        ({"b", "A"}, {"a", "b"}, "Right: a, b"),
        (["a"], {"a", "b"}, "Not yet: some are missing, or too many."),
        (False, True, "Not yet: it is another."),
    ],
)
def test_an_answer_is_checked_before_it_is_shown(answer, truth, said, capsys):
    check_answer(answer, lambda: truth)
    told = capsys.readouterr().out.strip()
    assert told.startswith(said) and "\n" not in told
    if not said.startswith("Right"):
        assert "0.25" not in told and "lm_head" not in told  # not given away
    check_answer(answer, lambda: truth, show=True)
    assert capsys.readouterr().out.startswith("The answer: ")
