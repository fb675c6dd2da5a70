package sql

import (
	"context"
	"sync"
	"testing"

	"thaw/internal/testdb"
)

// Servers are started once, by the first test that needs one, and stop with
// the process (TestMain closes the stage).
var (
	stage      testdb.Stage
	onceP      sync.Once
	onceM      sync.Once
	postgresDB *testdb.Postgres
	mariaDB    *testdb.MariaDB
)

func sharedPostgres(t *testing.T) *testdb.Postgres {
	t.Helper()
	onceP.Do(func() {
		postgresDB = testdb.StartPostgres(stage.For(t))
		if err := testdb.PrepareLoad(context.Background(), postgresDB.DB); err != nil {
			t.Fatal(err)
		}
	})
	if postgresDB == nil {
		t.Skip("PostgreSQL did not start")
	}
	return postgresDB
}

func sharedMariaDB(t *testing.T) *testdb.MariaDB {
	t.Helper()
	onceM.Do(func() {
		mariaDB = testdb.StartMariaDB(stage.For(t))
		if err := testdb.PrepareLoad(context.Background(), mariaDB.DB); err != nil {
			t.Fatal(err)
		}
	})
	if mariaDB == nil {
		t.Skip("MariaDB did not start")
	}
	return mariaDB
}
