"""Names that would act in a page which does not escape them, and a secret that it must not tell."""

SCRIPT = '<script>document.title = "evil"</script>'
QUOTE = '"><img src="x" onerror="document.title = 1">'
SECRET = "c4n4ry/9f+2"
