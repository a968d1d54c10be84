"""Feeding from another host: the client, its wire, and the gateway that it talks to."""
