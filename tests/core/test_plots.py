"""Plots have one style, whatever a user has set for matplotlib."""

import matplotlib

from onesentence.core.plots import figure, save


def test_a_matplotlibrc_changes_no_plot(tmp_path):
    def drawn(name: str) -> bytes:
        plot, axes = figure()
        axes.plot([1, 2], [3, 4])
        save(plot, tmp_path / name)
        return (tmp_path / name).read_bytes()

    plain = drawn("plain.svg")
    with matplotlib.rc_context({"axes.grid": True, "lines.linewidth": 3, "text.usetex": True}):
        assert drawn("set.svg") == plain
