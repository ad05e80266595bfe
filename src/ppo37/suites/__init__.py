"""Many runs: suites, ablation studies, and comparisons of what they reached."""
