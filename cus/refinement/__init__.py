"""What makes a Gaussian scene better where one walks in: pseudo-labels of close-up views."""
