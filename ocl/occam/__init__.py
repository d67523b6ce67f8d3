"""Classification by segments: masks × image encoder × foreground score, over images with a spurious background."""
