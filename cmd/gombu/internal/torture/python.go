package torture

import _ "embed" // the script of Kombu's consumer

// kombuScript is a consumer of Python's Kombu that tells the ledger.
//
//go:embed kombu.py
var kombuScript string
