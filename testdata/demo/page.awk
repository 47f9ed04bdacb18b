BEGIN { FS = "\t"; print "<ul>" }
{ printf "<li>%s: %s</li>\n", $1, $2 }
END { print "</ul>" }
