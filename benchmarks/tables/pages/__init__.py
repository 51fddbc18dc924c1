"""One module for each benchmark. Its `PAGE` holds the page's words, tables and plot."""
