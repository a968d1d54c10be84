# Compiled modules alone call this one.
