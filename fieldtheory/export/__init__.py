"""Files and pictures made from values; the engine never imports this at module level."""
