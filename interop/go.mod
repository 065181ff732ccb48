module github.com/gombu/gombu/interop

go 1.26

require (
	github.com/gombu/gombu v0.1.0
	github.com/gombu/gombu/transport/amqp v0.1.0
	github.com/gombu/gombu/transport/redis v0.1.0
	github.com/rabbitmq/amqp091-go v1.16.0
)

require (
	github.com/redis/rueidis v1.0.79 // indirect
	golang.org/x/sys v0.47.0 // indirect
)

replace (
	github.com/gombu/gombu => ..
	github.com/gombu/gombu/transport/amqp => ../transport/amqp
	github.com/gombu/gombu/transport/redis => ../transport/redis
)
