"""What a posterior is checked by beyond convergence: replicates, left-out data, other priors."""
