"""Draws figs/method_forward.png: how M's output enters the next forward pass, which is where phi gets its gradient.

python figs/method_forward.py
"""

from pathlib import Path

from diagram import BACKWARD, FORWARD, META, Diagram

HERE = Path(__file__).resolve().parent


def draw() -> Diagram:
    d = Diagram(width=13, height=6.2)
    d.title(r"How the loss reaches $\phi$: the meta gradient is part of the next forward pass")
    d.panel((0.2, 0.35, 3.3, 5.1), r"iteration $t-1$")
    d.panel((3.75, 0.35, 9.05, 5.1), r"iteration $t$")

    d.box("g_W_hat", (1.85, 4.1), r"$g_{\hat W}$", "kept by a hook")
    d.box("W_tilde_old", (1.85, 2.6), r"$\tilde W$", "kept")
    d.box("r", (1.85, 1.1), r"$r = \pi(g_W)$", "refined gradient", width=2.3)

    d.box("M", (4.75, 4.1), r"$M_\phi$", "", width=1.2, colour="#e8dff5")
    d.box("u", (6.9, 4.1), r"$u = c\,g_{\tilde W}$", r"$c$: calibration", width=2.0)
    value = r"value $W - \alpha r$, derivative $-\alpha\,du/d\phi$"
    d.box("W_prime", (6.9, 1.9), r"$W' = W - \alpha\,(u + \overline{r - u})$", value, width=4.0)
    d.box("W_hat", (11.2, 1.9), r"$\hat W = \mathcal{Q}(\mathcal{A}(W'))$", "1 bit", width=2.4)
    d.box("loss", (11.2, 4.1), r"loss $\ell$", "cross-entropy", width=1.9)
    d.arrow("g_W_hat", "M", "", META)
    d.arrow("W_tilde_old", "M", "", META)
    d.arrow("M", "u", "", META)
    d.arrow("u", "W_prime", "", META)
    d.arrow("r", "W_prime", "", FORWARD)
    d.arrow("W_prime", "W_hat", "", FORWARD)
    d.arrow("W_hat", "loss", "", FORWARD)
    d.curve([(10.3, 3.6), (9.7, 2.7), (8.3, 2.5), (7.8, 3.58)], BACKWARD)
    d.curve([(6.5, 4.6), (6.1, 5.0), (5.3, 5.0), (4.9, 4.62)], BACKWARD)
    d.text((9.05, 3.6), r"$\partial\ell/\partial\phi$, by STE through $\mathcal{Q}$", BACKWARD)
    d.note(
        (8.3, 0.8),
        r"An overline stops the gradient. Then step $\phi$ (Adam, $\gamma$), and $W \leftarrow W - \alpha\,\pi(\overline{u})$.",
    )
    return d


if __name__ == "__main__":
    draw().save(HERE / "method_forward.png")
