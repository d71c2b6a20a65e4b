"""Parts of quantizers: the step that a gradient has to pass, and quantizers with parameters of their own."""
