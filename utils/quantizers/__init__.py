"""What a quantizer is, the step in it that a gradient has to pass, and quantizers with parameters of their own."""
