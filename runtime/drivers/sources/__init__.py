"""Built-in sources, one file each; `components.SOURCES` names them."""
