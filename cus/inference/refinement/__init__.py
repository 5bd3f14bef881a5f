"""`cus-refine`: a Gaussian scene, its photographs, and the ways to make it better."""
