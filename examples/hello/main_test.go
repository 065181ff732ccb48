package main

import (
	"context"
	"fmt"
)

func Example() {
	if err := hello(context.Background(), "memory://hello"); err != nil {
		fmt.Println(err)
	}
	// Output: processing /tmp/lolcat1.avi, 1301013 bytes
}
