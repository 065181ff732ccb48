module github.com/gombu/gombu/bench

go 1.26
