package main

import (
	"database/sql"
	"fmt"

	"go.temporal.io/server/common/persistence/sql/sqlplugin"
	"go.temporal.io/server/schema/sqlite"
	_ "modernc.org/sqlite" // driver "sqlite", the one the server links anyway
)

// schemaVersion is kept in the file's user_version. A release of this program
// whose Temporal has another schema raises it and migrates.
const schemaVersion = 13201

// prepareDatabase makes the schema where the file is new. It is one
// transaction: a kill in the middle leaves an empty file, not half a schema.
func prepareDatabase(path string) error {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=busy_timeout(10000)")
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)

	var version int
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	switch version {
	case schemaVersion:
		return nil
	case 0:
	default:
		return fmt.Errorf("%s has schema %d, this program knows %d: use the thaw-server that made it, or give another --data", path, version, schemaVersion)
	}
	tx, err := db.Begin()
	if err != nil {
		return fmt.Errorf("make schema in %s: %w", path, err)
	}
	defer tx.Rollback()
	if err := sqlite.SetupSchemaOnDB(schemaTx{tx: tx}); err != nil {
		return fmt.Errorf("make schema in %s: %w", path, err)
	}
	if _, err := tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)); err != nil {
		return fmt.Errorf("make schema in %s: %w", path, err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("make schema in %s: %w", path, err)
	}
	return nil
}

// schemaTx is as much of an AdminDB as SetupSchemaOnDB uses.
type schemaTx struct {
	sqlplugin.AdminDB
	tx *sql.Tx
}

func (s schemaTx) Exec(stmt string, args ...any) error {
	_, err := s.tx.Exec(stmt, args...)
	return err
}
