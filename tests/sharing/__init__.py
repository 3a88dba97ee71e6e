"""One client that threads, greenlets and forked workers share, or that is interrupted."""
