"""What a malicious participant does beside training honestly. Off, unless its node's own operator turns it on."""
