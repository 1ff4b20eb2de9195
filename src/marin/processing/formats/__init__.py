"""Files of rows, read and written as Arrow record batches: JSON lines, parquet, Arrow, crawl archives, plain text.

`splits` plans which parts of which files are read apart, `reading` reads one of them, `writing` writes a file, and
`rows` reaches any row at once.
"""
