"""Many runs: suites, ablation studies, and comparisons of their results."""
