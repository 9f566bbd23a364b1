/* A crew: threads that make steps of hand-shakes without the interpreter's lock, so that neither waits for the other.

   The threads are Python's, each inside of serve() from its beginning to its end. What is submitted belongs to them
   until finished() gives it back; a number written to `bell`, an eventfd, says that there is something. Only where a
   hand-shake asks for a pre-shared key a thread takes the interpreter's lock, to call whom the job names. */

#ifndef ACCESSGW_TLS_CREW_H
#define ACCESSGW_TLS_CREW_H

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "tls_connection.h"

enum { TELL_AFTER = 2000000 }; /* nanoseconds that what is finished waits for the next, to be told with it */

typedef struct Job {
    struct Job *next;
    Connection *connection;
    PyObject *step, *data, *ask; /* whose it is; ciphertext, as bytes; called where keys are asked for, or None */
    int state;
} Job;

typedef struct {
    Job *first, **end;
} Queue;

typedef struct {
    PyObject_HEAD
    pthread_mutex_t lock; /* for all below but bell */
    pthread_cond_t wanted;
    Queue begun, fresh, finished;
    long waiting, idle;
    int bell;
    char stopping, rung;
} Crew;

static void put(Queue *queue, Job *job) {
    job->next = NULL;
    *queue->end = job;
    queue->end = &job->next;
}

static Job *get(Queue *queue) {
    Job *job = queue->first;
    if (job != NULL && (queue->first = job->next) == NULL) queue->end = &queue->first;
    return job;
}

static long long nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void ring(Crew *crew) {
    unsigned long long one = 1;
    crew->rung = 1;
    /* An eventfd that would block has been rung. */
    if (write(crew->bell, &one, sizeof one) < 0) return;
}

/* ------------------------------------------------------------------ the threads */

/* Whether whom the job names has looked for the keys; what it raises it keeps. Takes the interpreter's lock. */
static int asked(Job *job, PyThreadState **outside) {
    PyEval_RestoreThread(*outside);
    job->connection->busy = 0;
    PyObject *answer = PyObject_CallNoArgs(job->ask);
    int found = answer != NULL && PyObject_IsTrue(answer) == 1;
    if (PyErr_Occurred()) PyErr_WriteUnraisable(job->ask);
    Py_XDECREF(answer);
    job->connection->busy = 1;
    *outside = PyEval_SaveThread();
    return found;
}

static int make_step(Job *job, PyThreadState **outside) {
    Conn *conn = job->connection->conn;
    if (__atomic_load_n(&conn->cancelled, __ATOMIC_RELAXED)) return conn->failed = 1, FAILED;
    if (!take_in(conn, PyBytes_AS_STRING(job->data), PyBytes_GET_SIZE(job->data))) return fail(conn);
    current = conn;
    int state;
    while ((state = shake_hands(conn)) == WANT_KEYS)
        if (job->ask != Py_None && !asked(job, outside)) {
            conn->failed = 1, state = FAILED;
            break;
        }
    current = NULL;
    return state;
}

static PyObject *Crew_serve(Crew *self, PyObject *Py_UNUSED(nothing)) {
    PyThreadState *outside = PyEval_SaveThread();
    long long told = nanoseconds();
    pthread_mutex_lock(&self->lock);
    for (;;) {
        Job *job = NULL;
        while (!self->stopping && (job = get(&self->begun)) == NULL && (job = get(&self->fresh)) == NULL) {
            if (self->finished.first != NULL && !self->rung) ring(self);
            self->idle++;
            pthread_cond_wait(&self->wanted, &self->lock);
            self->idle--;
            told = nanoseconds();
        }
        if (job == NULL) break;
        self->waiting--;
        pthread_mutex_unlock(&self->lock);
        job->state = make_step(job, &outside);
        /* Whoever waits for this processor, the reactor perhaps, need not wait for the end of our slice of 3 ms. */
        sched_yield();
        long long now = nanoseconds();
        pthread_mutex_lock(&self->lock);
        put(&self->finished, job);
        if (now - told >= TELL_AFTER) {
            told = now;
            if (!self->rung) ring(self);
        }
    }
    pthread_mutex_unlock(&self->lock);
    PyEval_RestoreThread(outside);
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------ under the interpreter's lock */

static void let_go(Job *job) {
    job->connection->busy = 0;
    Py_DECREF(job->connection), Py_DECREF(job->step), Py_DECREF(job->data), Py_DECREF(job->ask);
    free(job);
}

static long drop_all(Job *job) {
    long count = 0;
    for (Job *next; job != NULL; job = next, count++) {
        next = job->next;
        let_go(job);
    }
    return count;
}

static PyObject *Crew_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"bell", NULL};
    int bell;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "i", names, &bell)) return NULL;
    Crew *self = (Crew *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->wanted, NULL);
    self->begun.end = &self->begun.first, self->fresh.end = &self->fresh.first;
    self->finished.end = &self->finished.first;
    self->bell = bell;
    return (PyObject *)self;
}

/* No thread is inside of serve(): each has a reference. */
static void Crew_dealloc(Crew *self) {
    PyTypeObject *type = Py_TYPE(self);
    drop_all(self->begun.first), drop_all(self->fresh.first), drop_all(self->finished.first);
    pthread_cond_destroy(&self->wanted);
    pthread_mutex_destroy(&self->lock);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *Crew_submit(Crew *self, PyObject *args) {
    Connection *connection;
    PyObject *data, *step, *ask;
    int begun;
    if (!PyArg_ParseTuple(args, "O!SOpO", connection_type, &connection, &data, &step, &begun, &ask)) return NULL;
    Conn *conn = alive(connection);
    if (conn == NULL) return NULL;
    if (conn->context->signs_elsewhere || conn->complete || conn->failed) {
        PyErr_SetString(PyExc_ValueError, "expected a hand-shake that is not over and whose private key is here");
        return NULL;
    }
    Job *job = malloc(sizeof *job);
    if (job == NULL) return PyErr_NoMemory();
    job->connection = (Connection *)Py_NewRef((PyObject *)connection);
    job->data = Py_NewRef(data), job->step = Py_NewRef(step), job->ask = Py_NewRef(ask);
    connection->busy = 1;
    pthread_mutex_lock(&self->lock);
    put(begun ? &self->begun : &self->fresh, job);
    self->waiting++;
    pthread_mutex_unlock(&self->lock);
    Py_RETURN_NONE;
}

static PyObject *Crew_wake(Crew *self, PyObject *Py_UNUSED(nothing)) {
    pthread_mutex_lock(&self->lock);
    /* A thread that is at work finds the jobs by itself. */
    long count = self->waiting < self->idle ? self->waiting : self->idle;
    while (count-- > 0) pthread_cond_signal(&self->wanted);
    pthread_mutex_unlock(&self->lock);
    Py_RETURN_NONE;
}

/* At most `most` of (step, state); the bell rings again where that was not all. */
static PyObject *Crew_finished(Crew *self, PyObject *args) {
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "n", &most)) return NULL;
    PyObject *told = PyList_New(0);
    pthread_mutex_lock(&self->lock);
    /* Before the look: what is finished after it rings. */
    self->rung = 0;
    pthread_mutex_unlock(&self->lock);
    while (told != NULL && most-- > 0) {
        pthread_mutex_lock(&self->lock);
        Job *job = get(&self->finished);
        pthread_mutex_unlock(&self->lock);
        if (job == NULL) return told;
        PyObject *one = Py_BuildValue("Oi", job->step, job->state);
        let_go(job);
        if (one == NULL || PyList_Append(told, one) < 0) Py_CLEAR(told);
        Py_XDECREF(one);
    }
    pthread_mutex_lock(&self->lock);
    if (self->finished.first != NULL && !self->rung) ring(self);
    pthread_mutex_unlock(&self->lock);
    return told;
}

/* Ends the threads, each after what it does now, and drops what waits; how many. */
static PyObject *Crew_stop(Crew *self, PyObject *Py_UNUSED(nothing)) {
    pthread_mutex_lock(&self->lock);
    Job *begun = self->begun.first, *fresh = self->fresh.first;
    self->begun.first = self->fresh.first = NULL;
    self->begun.end = &self->begun.first, self->fresh.end = &self->fresh.first;
    self->waiting = 0, self->stopping = 1;
    pthread_cond_broadcast(&self->wanted);
    pthread_mutex_unlock(&self->lock);
    return PyLong_FromLong(drop_all(begun) + drop_all(fresh));
}

static PyMethodDef Crew_methods[] = {
    {"serve", (PyCFunction)Crew_serve, METH_NOARGS, NULL},
    {"submit", (PyCFunction)Crew_submit, METH_VARARGS, NULL},
    {"wake", (PyCFunction)Crew_wake, METH_NOARGS, NULL},
    {"finished", (PyCFunction)Crew_finished, METH_VARARGS, NULL},
    {"stop", (PyCFunction)Crew_stop, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Crew_slots[] = {
    {Py_tp_new, Crew_new},
    {Py_tp_dealloc, Crew_dealloc},
    {Py_tp_methods, Crew_methods},
    {0, NULL},
};

static PyType_Spec Crew_spec = {"protocols._native.tls_engine.Crew", sizeof(Crew), 0, Py_TPFLAGS_DEFAULT, Crew_slots};

#endif
