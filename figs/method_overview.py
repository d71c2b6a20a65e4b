"""Draws figs/method_overview.png: the base model with its quantizer, and where MetaQuant's M stands.

python figs/method_overview.py
"""

from pathlib import Path

from diagram import BACKWARD, FORWARD, META, Diagram

HERE = Path(__file__).resolve().parent


def draw() -> Diagram:
    d = Diagram(width=13, height=6.2)
    d.title("MetaQuant: one small network M learns the gradient through the quantizer")

    d.box("W", (1.3, 4.6), r"$W$", "full precision")
    d.box("W_tilde", (4.3, 4.6), r"$\tilde W$", "pre-processed")
    d.box("W_hat", (7.3, 4.6), r"$\hat W$", "1 bit")
    d.box("net", (10.0, 4.6), "network", "forward and backward", width=2.2)
    d.box("data", (12.3, 4.6), "batch", "", width=1.1, height=0.6, colour="#eeeeee")
    d.arrow("W", "W_tilde", r"$\mathcal{A}$", FORWARD)
    d.arrow("W_tilde", "W_hat", r"$\mathcal{Q}$", FORWARD)
    d.arrow("W_hat", "net", "", FORWARD)
    d.arrow("data", "net", "", FORWARD)
    d.text((5.8, 5.4), "forward", FORWARD)

    d.box("g_W", (1.3, 1.1), r"$g_W$", "gradient of $W$")
    d.box("g_W_tilde", (4.3, 1.1), r"$g_{\tilde W}$", r"gradient of $\tilde W$")
    d.box("M", (5.8, 2.85), r"$M_\phi(g_{\hat W}, \tilde W)$", "shared by all layers", width=3.0, colour="#e8dff5")
    d.box("g_W_hat", (7.3, 1.1), r"$g_{\hat W}$", r"gradient of $\hat W$")
    d.arrow("net", "g_W_hat", "", BACKWARD)
    d.arrow("g_W_hat", "g_W_tilde", "no derivative", BACKWARD, broken=True)
    d.arrow("g_W_hat", "M", "", META)
    d.arrow("M", "g_W_tilde", "", META)
    d.arrow("W_tilde", "M", "", META)
    d.arrow("g_W_tilde", "g_W", r"$\times\ d\tilde W / dW$", BACKWARD)
    d.arrow("g_W", "W", r"$W \leftarrow W - \alpha\,\pi(g_W)$", BACKWARD)
    d.text((5.8, 0.3), "backward", BACKWARD)
    d.note((10.9, 1.1), "STE passes $g_{\\hat W}$ where $|\\tilde W| \\leq 1$.\nMetaQuant learns what to pass.")
    return d


if __name__ == "__main__":
    draw().save(HERE / "method_overview.png")
