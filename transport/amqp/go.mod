module github.com/gombu/gombu/transport/amqp

go 1.26

require (
	github.com/gombu/gombu v0.1.0
	github.com/rabbitmq/amqp091-go v1.16.0
)

replace github.com/gombu/gombu => ../..
