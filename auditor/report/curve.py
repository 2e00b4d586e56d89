"""The picture of a run: leakage against rounds, beside its controls and the global model's accuracy."""

import io
from collections.abc import Sequence

from auditor.summary import RoundSummary

BLUE, RED, GREY = "#2457a6", "#c22f2f", "#777777"


def curve_svg(lines: Sequence[RoundSummary], utility: dict[int, float], gate: float) -> str:
    """Draw the curve.

    Args:
        lines: the attacked rounds of one attack, in order.
        utility: the global model's accuracy on the victim's classes by round.
        gate: below this utility a round is shaded "not learned yet".

    Returns:
        An ``<svg>`` element.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(
        {"svg.fonttype": "none", "font.size": 10, "svg.hashsalt": "fedinverse", "font.family": "sans-serif"}
    ):
        figure, axes = plt.subplots(figsize=(7.6, 3.6))
        rounds = sorted(utility)
        axes.plot(
            rounds,
            [utility[r] for r in rounds],
            color=GREY,
            lw=1.2,
            ls="--",
            label="model's accuracy on the victim's classes",
        )
        at = [line.round for line in lines]
        axes.plot(
            at,
            [line.recognised for line in lines],
            color=RED,
            lw=2.2,
            marker="o",
            label="attack: reconstructions read as the class",
        )
        for arm, style, mark, label in (
            ("B4", (0, (5, 1, 1, 1, 1, 1)), "^", "public images the model is surest of, no attack"),
            ("B0", "-", "s", "prior only"),
            ("B2", "-.", "D", "federation without the victim"),
            ("B1", ":", "", "untrained model"),
            ("B3", "--", "", "model of the attacker's own shard"),
        ):
            drawn = [(line.round, share) for line in lines if (share := line.controls[arm]) is not None]
            if drawn:
                x, y = zip(*drawn, strict=True)
                axes.plot(x, y, color=BLUE, lw=1.3, ls=style, marker=mark, ms=4, label=f"control: {label}")
        for number in rounds:
            if utility[number] < gate:
                axes.axvspan(number - 0.5, number + 0.5, color="#eeeeee", lw=0)
        axes.set(
            xlabel="federation round (shaded: the victim's classes are not learned yet)",
            ylabel="share",
            ylim=(-0.03, 1.05),
        )
        axes.set_xlim(min(rounds) - 0.5, max(rounds) + 0.5)
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=2)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
