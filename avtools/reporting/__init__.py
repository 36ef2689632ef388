"""One HTML page to look at and listen to the rows of a table: `avtools report`.

:mod:`.looking` works out, in worker processes, what is drawn beside a clip (spectrogram, onsets, motion, poster);
:mod:`.embedding` makes of media what every browser plays; :mod:`.runs` reads training logs; :mod:`.page` puts it all
into one file with the page's own script and style (page.js, page.css, page.html beside them).
"""
