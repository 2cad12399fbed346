"""From runs to the pages of the book: run header, tables, downloads, viewer, and the build."""
