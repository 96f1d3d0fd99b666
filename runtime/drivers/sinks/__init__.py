"""Built-in sinks, one file each; `components.SINKS` names them."""
