"""Stage 1: the parts of IntraQ (CVPR 2022), one file each, and the optimisation that combines them."""
