"""Stage 2: tuning the quantized network against its teacher."""
