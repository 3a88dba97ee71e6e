"""What clients send and receive, pure: requests, replies, values and their limits, the wire."""
