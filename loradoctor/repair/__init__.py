"""`loradoctor repair`: a corrected copy of an adapter, with proof of what was kept."""
