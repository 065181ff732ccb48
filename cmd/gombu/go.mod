module github.com/gombu/gombu/cmd/gombu

go 1.26

require (
	github.com/gombu/gombu v0.1.0
	github.com/gombu/gombu/transport/amqp v0.1.0
	github.com/gombu/gombu/transport/redis v0.1.0
	github.com/redis/rueidis v1.0.79
	github.com/spf13/cobra v1.10.2
	github.com/spf13/pflag v1.0.9
)

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/rabbitmq/amqp091-go v1.16.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
)
