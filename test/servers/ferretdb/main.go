// Command ferretdb serves MongoDB's protocol from SQLite files in one folder, for the tests of the document store.
//
// It prints its URI as the first line and runs until it is interrupted. Without an ADDRESS it takes a free port of the
// loopback interface. FerretDB's own command cannot be built with `go install`: it looks for a version file that is not
// part of its module.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	address := "127.0.0.1:0"
	switch len(os.Args) {
	case 2:
	case 3:
		address = os.Args[2]
	default:
		log.Fatal("usage: ferretdb FOLDER [ADDRESS]")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: address},
		Handler:   "sqlite",
		SQLiteURL: "file:" + os.Args[1] + "/",
	})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	fmt.Println(server.MongoDBURI())
	if err := <-done; err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}
